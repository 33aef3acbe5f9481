"""What a request for clones does when all is well."""


def test_a_clone_is_a_server_with_two_marks(world):
    source = world.server()
    reply = world.clone(source, name="copy")
    assert reply.status == 202, reply.body
