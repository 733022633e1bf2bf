"""Transfer: the verified, resumable copying of what one node lacks from others.

Reading order: protocol.py (states), receiver.py and sender.py (decisions, no I/O), frames.py, manifest.py and leaves.py
(bytes), landing.py and progress.py (where received pages are kept), bulk_server.py and bulk_client.py (sockets).
"""
