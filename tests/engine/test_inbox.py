"""The inbox: every message that was taken comes out once, in order, whoever sends and whenever it is closed."""

import threading

from rcjax.engine.inbox import Inbox


def test_messages_come_out_in_order_and_once():
    inbox = Inbox()
    messages = [lambda i=i: i for i in range(5)]
    assert all(inbox.put(message) for message in messages)
    assert [message() for message in inbox.take(None)] == [0, 1, 2, 3, 4]
    assert inbox.take(0.0) == []


def test_a_closed_inbox_keeps_what_it_has_and_takes_no_more():
    inbox = Inbox()
    inbox.put(lambda: 1)
    inbox.close()
    assert inbox.is_closed
    assert not inbox.put(lambda: 2)
    assert inbox.put(lambda: 3, even_if_closed=True)
    assert [message() for message in inbox.take(None)] == [1, 3]
    assert inbox.take(None) == [], "it does not wait"


def test_closing_wakes_who_waits():
    inbox, taken = Inbox(), []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(None)))
    thread.start()
    inbox.close()
    thread.join()
    assert taken == [[]]


def test_who_waits_for_a_pass_is_not_woken_by_closing():
    inbox, taken = Inbox(), []
    inbox.close()
    thread = threading.Thread(target=lambda: taken.append(inbox.take(None, until_closed=False)))
    thread.start()
    inbox.put(lambda: "landed", even_if_closed=True)
    thread.join()
    assert [message() for message in taken[0]] == ["landed"]


def test_many_senders_lose_nothing():
    inbox, num = Inbox(), 200
    senders = [
        threading.Thread(target=lambda s=s: [inbox.put(lambda s=s, i=i: (s, i)) for i in range(num)]) for s in range(4)
    ]
    for sender in senders:
        sender.start()
    found = []
    while len(found) < 4 * num:
        found += [message() for message in inbox.take(None)]
    for sender in senders:
        sender.join()
    for s in range(4):
        assert [i for who, i in found if who == s] == list(range(num))
    assert inbox.take(0.0) == []
