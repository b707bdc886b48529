"""The Lua steps of a job's record, at their own level: cases in a table, and a search through orders of events."""
