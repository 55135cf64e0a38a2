"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import rows_of_benchmark

rows = rows_of_benchmark("mgsm")
