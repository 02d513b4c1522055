"""The GCS surface: its pure parts, and a running gateway asked byte for byte."""
