"""What files of numbers look like: read alike by the command line and by the playground."""

from __future__ import annotations

READ = {
    "a column": ("1\n2.5\n-3e2\n", [1.0, 2.5, -300.0]),
    "a column with a heading": ("temperature\n1\n2\n", [1.0, 2.0]),
    "a heading of several words": ("Temperature in the hall\r\n1\r\n2\r\n", [1.0, 2.0]),
    "cells in quotes": ('"amount"\n"1"\n"2"\n', [1.0, 2.0]),
    "a column with commas behind": ("1,\n2,\n", [1.0, 2.0]),
    "one line": ("1, 2;3\t4 5", [1.0, 2.0, 3.0, 4.0, 5.0]),
    "a single number": ("7", [7.0]),
    "gaps and a mark at the start": ("\ufeff\n\n1\n\n+.5\n", [1.0, 0.5]),
    "a list of JSON": ("[1, 2.5, -3]", [1.0, 2.5, -3.0]),
    "an object of JSON": ('{"values": [1, 2], "unit": "°C"}', [1.0, 2.0]),
}

REFUSED = {
    "nothing": " \n",
    "two columns": "1,2\n3,4\n",
    "two columns with headings": "time,value\n1,2\n3,4\n",
    "dates and values": "date,value\n2026-01-01,2\n",
    "a decimal comma": "1,5\n2,5\n",
    "words": "once upon a time",
    "a word in a column": "1\n2\nx\n3",
    "a heading only": "temperature\n",
    "no finite number": "1\nnan\n",
    "what is too large for 64 bits": "1\n1e999\n",
    "hexadecimal": "1\n0x10",
    "underscores": "1\n1_000",
    "cut JSON": "[1, 2",
    "JSON without values": '{"value": [1]}',
    "nested JSON": "[[1], [2]]",
    "JSON with text": '[1, "2"]',
    "an empty list": "[]",
}
