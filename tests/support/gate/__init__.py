"""Runs and evidence for the gate, evaluated or written by hand."""
