"""Programs to run and to read: `python -m samples.echo`, `samples.chat`, `samples.exchange`."""
