"""What is said of an error that another library raised."""

from timesformer_jax.errors import first_line


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n  bad magic\nat 0x12\n")) == "bad magic"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(OSError(" \n")) == "OSError"
