"""The development environment: embedded broker, fake payment gateway, `dev` and `demo`; production never imports it."""


class EmbeddedUnavailable(RuntimeError):
    """There is no embedded broker on this machine, or it did not start; the text says what to do."""
