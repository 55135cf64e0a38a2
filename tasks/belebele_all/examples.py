"""Invented rows in the columns of this benchmark's data."""

from lm_eval_moe.multilingual.examples import rows_of_benchmark

rows = rows_of_benchmark("belebele")
