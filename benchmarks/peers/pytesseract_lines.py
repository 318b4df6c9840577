"""pytesseract as its README shows it, in the peers' environment: a path a line on stdin, its text as JSON on stdout."""

import json
import sys

import pytesseract
from PIL import Image

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    with Image.open(line.rstrip("\n")) as picture:
        print(json.dumps(pytesseract.image_to_string(picture, lang="eng")), flush=True)
