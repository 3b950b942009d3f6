"""In the place of the package: the same application on stock SQLite, to see that the test asks for nothing more."""


def install():
    """Nothing: stock is there."""


def status(_connection):
    return {"vfs": "unix", "active": False}
