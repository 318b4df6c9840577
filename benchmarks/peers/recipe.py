"""The usual recipe for an OCR service in Python, FastAPI around pytesseract; run in the peers' environment."""

import pytesseract
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()


@app.post("/ocr")
def ocr(file: UploadFile) -> dict[str, str]:
    """The text of one picture."""
    with Image.open(file.file) as picture:
        return {"text": pytesseract.image_to_string(picture, lang="eng")}
