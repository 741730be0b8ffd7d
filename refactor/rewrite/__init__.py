"""From hits to bytes: what each rewrite proposes, and how proposals become one patch a file."""
