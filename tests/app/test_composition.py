from pathlib import Path

import pytest

from app.cache.signals import LocalSignals
from app.composition import REMEMBERED_ALONE_S, choose_memory
from app.services.serving import ServingMemory
from app.settings import Settings


def test_a_process_that_has_its_stores_to_itself_remembers_tasks_for_longer(tmp_path: Path) -> None:
    assert choose_memory(Settings(home_dir=tmp_path), LocalSignals()).ttl_s == REMEMBERED_ALONE_S


@pytest.mark.parametrize("shared", [{"database_url": "postgresql+psycopg://there/db"}, {"redis_url": "redis://there"}])
def test_one_that_shares_a_store_asks_again_after_a_second(shared: dict[str, str], tmp_path: Path) -> None:
    memory, usual = choose_memory(Settings.model_validate({"home_dir": tmp_path, **shared}), LocalSignals()), ServingMemory(LocalSignals())
    assert memory.ttl_s == usual.ttl_s == 1.0
