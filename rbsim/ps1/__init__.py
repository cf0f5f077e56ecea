"""Pan-STARRS1 stacks: which skycells a frame needs, reading them, bringing them to its grid."""
