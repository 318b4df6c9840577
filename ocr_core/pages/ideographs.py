"""Chinese, Japanese and Korean in words: each character is one, and most of them follow each other without a space.

Invariant: pure patterns, the same for every engine.
"""

import re

ONE_CHARACTER_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
"""Characters that are words of their own: Chinese, Japanese, Korean."""

UNSPACED = re.compile(r"[\u3001-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60]")
"""Characters between which Chinese and Japanese write no space; an engine sees one where type is set wide."""
