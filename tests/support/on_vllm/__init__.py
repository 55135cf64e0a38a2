"""Engines, workloads and broken workers for the tests that run on vLLM."""
