"""What a script has in place of the package's own, each in the module of the same name.

A definition here stands for the core definition of its name. Nothing imports these modules:
`bitgolf.script.slim` reads them as text.
"""
