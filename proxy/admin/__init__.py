"""The gateway's own endpoints under `/-/`: health, readiness, metrics."""
