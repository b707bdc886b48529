"""What looks at the jobs from outside: the engine behind API and CLI, backlog, dead letters, metrics, doctor."""
