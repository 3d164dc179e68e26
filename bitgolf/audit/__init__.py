"""Anyone's folder, script, log or artifact, and what is wrong with it; nothing foreign is executed."""
