"""The device key: made once, kept, and never silently made anew."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from licenses.device_key import DeviceKey, device_id_of, handed_over_key, instance_id_of, load_device_public
from licenses.errors import FormatError, KeyFileError
from licenses.keyring import SigningKey
from licenses.keys import fingerprint, public_pem


def test_key_is_made_once_and_kept(tmp_path):
    first, second = DeviceKey.load_or_create(tmp_path), DeviceKey.load_or_create(tmp_path)
    assert first.public_raw == second.public_raw
    assert first.key_id == f"device-{first.device_id}"
    assert load_device_public(tmp_path) == first.verifying_key


def test_ids_are_parts_of_one_digest(tmp_path):
    key = DeviceKey.load_or_create(tmp_path)
    digest = fingerprint(key.verifying_key.public)
    assert (key.device_id, key.instance_id) == (digest[:16], digest[:12])
    assert (device_id_of(key.public_raw), instance_id_of(key.public_raw)) == (digest[:16], digest[:12])


def test_modes_and_no_leftovers(tmp_path):
    DeviceKey.load_or_create(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"device.key": 0o400, "device.pub": 0o444}


def test_starters_at_the_same_time_get_the_same_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: DeviceKey.load_or_create(tmp_path).public_raw, range(8)))
    assert len(set(keys)) == 1


def test_public_half_lost_is_written_again(tmp_path):
    key = DeviceKey.load_or_create(tmp_path)
    (tmp_path / "device.pub").unlink()
    with pytest.raises(KeyFileError):
        load_device_public(tmp_path)
    assert DeviceKey.load_or_create(tmp_path).public_raw == key.public_raw
    assert load_device_public(tmp_path) == key.verifying_key


def test_private_half_lost_is_not_made_anew(tmp_path):
    DeviceKey.load_or_create(tmp_path)
    (tmp_path / "device.key").unlink()
    with pytest.raises(KeyFileError, match="is gone") as caught:
        DeviceKey.load_or_create(tmp_path)
    assert "Restore device.key" in caught.value.next_step
    assert not (tmp_path / "device.key").exists()


def test_exchanged_public_half_is_refused(tmp_path):
    DeviceKey.load_or_create(tmp_path)
    (tmp_path / "device.pub").chmod(0o644)
    (tmp_path / "device.pub").write_bytes(public_pem(SigningKey.generate("device").verifying.public))
    with pytest.raises(FormatError, match="not the public half"):
        DeviceKey.load_or_create(tmp_path)


def test_private_half_open_to_others_is_refused(tmp_path):
    DeviceKey.load_or_create(tmp_path)
    (tmp_path / "device.key").chmod(0o444)
    with pytest.raises(KeyFileError, match="others than its owner"):
        DeviceKey.load_or_create(tmp_path)


def test_damaged_private_half_is_refused(tmp_path):
    (tmp_path / "device.key").write_bytes(b"")
    (tmp_path / "device.key").chmod(0o400)
    with pytest.raises(FormatError):
        DeviceKey.load_or_create(tmp_path)


def test_missing_state_directory_is_named(tmp_path):
    with pytest.raises(KeyFileError, match="state directory") as caught:
        DeviceKey.load_or_create(tmp_path / "none")
    assert str(tmp_path / "none") in caught.value.next_step


def test_file_in_place_of_the_state_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError):
        DeviceKey.load_or_create(tmp_path / "file")


def test_public_half_is_published_to_others_and_never_the_private_one(tmp_path):
    state, known = tmp_path / "state", tmp_path / "known"
    for folder in (state, known):
        folder.mkdir()
    key = DeviceKey.load_or_create(state)
    for _ in range(2):
        key.publish(known)
        assert [path.name for path in known.iterdir()] == ["device.pub"]
        assert load_device_public(known) == key.verifying_key
    (known / "device.pub").chmod(0o644)
    (known / "device.pub").write_text("another device's, left behind")
    key.publish(known)
    assert load_device_public(known) == key.verifying_key


def test_where_it_cannot_be_published_the_folder_is_told(tmp_path):
    with pytest.raises(KeyFileError, match="nowhere"):
        DeviceKey.load_or_create(tmp_path).publish(tmp_path / "nowhere")


def test_private_half_may_lie_where_nobody_else_looks(tmp_path):
    state, private = tmp_path / "state", tmp_path / "private"
    for folder in (state, private):
        folder.mkdir()
    key = DeviceKey.load_or_create(state, private_directory=private)
    assert [path.name for path in state.iterdir()] == ["device.pub"]
    for again in (DeviceKey.load(private), DeviceKey.load_or_create(state, private_directory=private)):
        assert again.public_raw == key.public_raw
    assert load_device_public(state) == key.verifying_key
    with pytest.raises(KeyFileError, match="is gone, but"):
        DeviceKey.load_or_create(state)


def test_a_key_that_is_handed_over_is_loaded_where_none_lies(tmp_path):
    state, credentials = tmp_path / "state", tmp_path / "credentials"
    state.mkdir()
    credentials.mkdir()
    key = DeviceKey.load_or_create(state)
    (state / "device.key").rename(credentials / "tollgate.device-key")
    with pytest.raises(KeyFileError):
        DeviceKey.load(state, handed_over=handed_over_key({}))
    with pytest.raises(KeyFileError):
        DeviceKey.load(state, handed_over=handed_over_key({"CREDENTIALS_DIRECTORY": str(state)}))
    handed_over = handed_over_key({"CREDENTIALS_DIRECTORY": str(credentials)})
    assert DeviceKey.load(state, handed_over=handed_over).public_raw == key.public_raw
