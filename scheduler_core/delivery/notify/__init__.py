"""Sends messages of alerts: the documents for each kind of channel, and how they are delivered.

Webhooks go through the deliverer of targets, e-mails through SMTP; both ask the address guard before they connect.
"""
