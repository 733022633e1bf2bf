"""A receiver in a process of its own, to be killed: `python receiver_process.py FOLDER PORT INDEX`. Says `open`
first.
"""

import importlib.util
import pathlib
import sys


def main(folder, port, index):
    spec = importlib.util.spec_from_file_location("world", pathlib.Path(__file__).with_name("conftest.py"))
    world = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(world)
    node = world.Node(pathlib.Path(folder)).open()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    client = node.client([("127.0.0.1", int(port))], world.Base(int(index), 3, int(index) - 1, 3, b""))
    client.run()


main(*sys.argv[1:])
