"""Pool to bundle: the files that go to the device."""
