"""Latency tables: what is measured, how a table is fitted to it and judged, and what it says of archs and supernets."""
