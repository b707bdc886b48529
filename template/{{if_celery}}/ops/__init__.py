"""The processes (worker, scheduler), and what looks at jobs from outside: API and CLI, backlog, doctor."""
