"""What numpy, zipfile and zlib raise at a damaged `.npz`."""

import struct
import tokenize
import zipfile
import zlib

# numpy reads the header of an array as a literal of Python: errors of the tokenizer and the parser
# come through (a MemoryError for brackets in brackets).
READING = (
    *(OSError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError),
    *(OverflowError, NotImplementedError, RuntimeError, RecursionError, MemoryError),
    *(SyntaxError, tokenize.TokenError, struct.error),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
)
