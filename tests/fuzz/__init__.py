"""What must hold whatever comes in, as functions that are driven by hypothesis (tests/test_fuzz.py) and by atheris.

By hand, for as long as wanted: `python -m tests.fuzz.framing -runs=1000000`, `python -m tests.fuzz.tls -runs=100000`.
"""
