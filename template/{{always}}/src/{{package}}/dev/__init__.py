"""The development environment: embedded broker, fake payment gateway, `dev` and `demo`; production never imports it."""
