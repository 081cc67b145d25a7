"""What clients send and receive: request bodies read into values of the model, and values shown as JSON.

Every check of a field of a request is here, with the words of its error. Nothing here awaits, and nothing here knows
routes or statuses.
"""
