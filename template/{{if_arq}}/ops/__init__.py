"""The processes (worker, supervisor, scheduler), and what looks at jobs from outside: API and CLI, backlog, doctor."""
