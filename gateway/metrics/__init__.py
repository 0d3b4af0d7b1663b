"""Figures for Prometheus: one registry for a process, instruments around what functions do."""
