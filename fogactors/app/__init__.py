"""The program: settings, boot and the command."""
