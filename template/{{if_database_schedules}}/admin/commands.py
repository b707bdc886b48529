"""`admin`: serve the admin page; `admin createsuperuser`: say who may log in."""

import sys
from getpass import getpass
from typing import Annotated

import typer

from . import database, setup

app = typer.Typer()


@app.callback(invoke_without_command=True)
def admin(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="ADMIN_HOST unless given.")] = None,
    port: Annotated[int | None, typer.Option(help="ADMIN_PORT unless given.", min=0, max=65535)] = None,
) -> None:
    """Serve the admin page of the schedules; or make a person who may log in."""
    if context.invoked_subcommand is None:
        from .. import broker

        broker.require()
        setup()
        from .server import serve

        serve(host, port)


@app.command()
def createsuperuser(name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)]) -> None:
    """Make a user, or set a new password; asks for it, or reads one line from standard input."""
    setup()
    from .people import put_superuser

    if sys.stdin.isatty():
        password = getpass(f"Password of {name}: ")
        if getpass("Again: ") != password:
            raise typer.BadParameter("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    with database():
        put_superuser(name, password)
    print(f"{name} may log in")
