"""Which objective to train with, measured: the same encoder, data and budget for each, tuned alike.

    data       what is compared on: loading, checks, splits
    objectives which losses take part, with which settings and search ranges
    tasks      what each task feeds a loss and how it evaluates an encoder
    encoder    the network that every objective trains
    train      one training
    search     tuning one objective
    study      the whole run and its results
    report     results.json and report.html
    terminal   what is printed
    curve      the picture of ``show --plot``

Needs the extra ``compare``; importing this package alone needs nothing but the core.
"""
