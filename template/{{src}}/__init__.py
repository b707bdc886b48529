"""A background-job service: workers and schedules, operated over HTTP and from the command line."""
