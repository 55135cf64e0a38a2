"""What tests of several rooms share: made-up data, and what writes it as files."""
