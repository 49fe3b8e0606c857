"""The page of ``mcap studio``: people, their photos, styles and pictures, on one's own machine.

    folder -> views -> app -> browser;   a button -> commands -> jobs -> a process of ``mcap``

Everything that is computed is computed by a command of mcap in a process of its own, with the files
that it would write in a terminal. All that the page shows is read from the folder, so that whoever
opens it again, in another tab or after the server was killed, sees the same.
"""
