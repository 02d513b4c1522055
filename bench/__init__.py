"""Measurements: one file for each question, run as `python -m bench NAME`.

A question is a module here with `QUESTION`, a sentence, and `measure(quick: bool) -> list[Row]`. Everything that is
compared is measured side by side in one run, because absolute figures change with the machine and the hour.
"""

from __future__ import annotations

Row = dict[str, str | int | float]  # the columns of the printed table, in order; "quick" runs take seconds
