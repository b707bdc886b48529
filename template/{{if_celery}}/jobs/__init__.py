"""Your jobs: every module here is loaded by workers, scheduler and API. Change, delete and add freely; updates never
touch it.
"""
