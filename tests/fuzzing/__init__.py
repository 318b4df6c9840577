"""A mutation fuzzer for the document room: `make fuzz`, or `python -m tests.fuzzing --seconds 60 --out build/fuzz`."""
