"""The main screen: a transcript, a queue of messages, a composer."""
