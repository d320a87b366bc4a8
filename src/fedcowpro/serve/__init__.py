"""The page on which one paints a slice and gets the volume: a local web server (extra `serve`).

Nothing here trusts what a browser sends: hosts, origins, sessions and bodies are checked in `guard`, paths in
`folder`, files in `content`. Work runs in one thread beside the event loop (`jobs`).
"""
