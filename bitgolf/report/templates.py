"""Page templates, which escape all inserted values and show text as a screen does."""

import jinja2

from bitgolf.report.screen import on_page


def templates(package: str, undefined: type[jinja2.Undefined] = jinja2.StrictUndefined) -> jinja2.Environment:
    """The templates in a package of bitgolf. undefined: what a name does that is not there."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bitgolf", package),
        autoescape=True,
        finalize=on_page,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=undefined,
    )
