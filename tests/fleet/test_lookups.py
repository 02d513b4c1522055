"""Records of keys: one question at the origin, however many workers of however many nodes want to know."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx

from tests.fleet.fleet import BLOCK_BYTES, start_fleet
from tests.fleet.held_origin import BUCKET, HeldOrigin

READERS = 12


def test_all_workers_of_all_nodes_ask_the_origin_once_for_a_key(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud:
        cloud.put("model", b"x" * 1000)
        with start_fleet(tmp_path, cloud, nodes=2, workers=3) as fleet:
            begin = threading.Barrier(2 * READERS)

            def ask(number: int, answers: list[int]) -> None:
                with httpx.Client(trust_env=False, timeout=60) as client:
                    begin.wait()
                    answers.append(client.head(f"{fleet.nodes[number].url}/{BUCKET}/model").status_code)

            answers: list[int] = []
            threads = [threading.Thread(target=ask, args=(number % 2, answers)) for number in range(2 * READERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert answers == [200] * 2 * READERS
            assert [asked.method for asked in cloud.asked] == ["HEAD"]
