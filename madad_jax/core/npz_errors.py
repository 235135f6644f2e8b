"""What numpy, zipfile and zlib raise at a damaged `.npz`."""

import struct
import tokenize
import zipfile
import zlib

# The header of an array is read as Python's literal: numpy takes it to the tokenizer and the parser,
# whose own errors come through (a MemoryError for brackets in brackets).
READING = (
    *(OSError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError),
    *(OverflowError, NotImplementedError, RuntimeError, RecursionError, MemoryError),
    *(SyntaxError, tokenize.TokenError, struct.error),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
)
