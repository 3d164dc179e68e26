"""Anyone's folder, script, log or artifact, and what is wrong with it; nothing foreign is executed.

In this order a script becomes findings:

1. `unwrap` opens what is packed, `own_names` and `aliases` tell names apart, `tree` answers for nodes.
2. `callees` says what a call is of: the script, a library, or not known. `values`, `walk`, `expressions` with
   `library`, `calls`, `flow`: what reaches what, as marks that values carry, and the events on their way.
   `indices` tells one piece of the text from another.
3. `script` holds all of it, with `written` and `reach`: what checks ask.
4. `interpreter`: its statements with values, where those are known. What builds on it has some of its own:
   `byte_table` a tokenizer, `one_tensor` a tensor, `program` objects, `passes` with `arrays` the whole text.
5. `script_*`: the checks, by what they are about; `script_checks` asks all of them.

What `folder` and `logs` read is checked by `folder_*` and `log_checks`; other files by `artifact_checks`,
`data_checks` and `tokenizer_checks`. `audit` asks all of them for one verdict under `rules`, over the
catalogue of `violations`.
"""
