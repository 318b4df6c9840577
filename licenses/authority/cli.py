"""The command `licenses authority`: the vendor's side, from the books of customers to the service.

Invariants:

* Each command says what it did, to whom, and what to do next; `--json` prints the same facts for machines.
* Who runs a command is written to the audit trail, with everything that it changes.
* Exit codes are those of `licenses`; what only the service needs is imported by its own commands, late.
"""

import click

from licenses.authority import cli_accounts, cli_clerk, cli_licensing, cli_serve, cli_usage


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def authority() -> None:
    """The commands; what it is for is told by `licenses.cli`, which need not load them for that."""


for command in (
    *cli_accounts.COMMANDS,
    *cli_licensing.COMMANDS,
    *cli_usage.COMMANDS,
    *cli_clerk.COMMANDS,
    *cli_serve.COMMANDS,
):
    authority.add_command(command)
