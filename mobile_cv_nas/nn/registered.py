"""The classes that `register_block` makes of plain modules, by the names they are registered under: `pickle` finds them here."""


def __getattr__(name: str) -> type:
    from .register import block_type  # here, since a name of this module would hide a block of that name

    try:
        return block_type(name)[0]
    except KeyError:
        raise AttributeError(f"no block is called {name}: register_block({name!r}, ...) it before its network is read") from None
