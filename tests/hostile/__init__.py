"""Hostile input: what the gateway's parsers, and a running worker, may spend on whatever one client sends."""
