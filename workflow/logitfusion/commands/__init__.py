"""The subcommands of ``logitfusion``: each module has ``run(arguments)``."""
