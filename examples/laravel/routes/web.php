<?php

use App\Http\Controllers\OrderController;
use App\Http\Controllers\SessionController;
use App\Http\Middleware\RequireUser;
use Illuminate\Foundation\Http\Middleware\VerifyCsrfToken;
use Illuminate\Support\Facades\Route;

Route::get('/', [OrderController::class, 'page']);
Route::post('/login', [SessionController::class, 'login']);

Route::middleware(RequireUser::class)->group(function () {
    Route::get('/orders', [OrderController::class, 'index']);
    Route::post('/orders', [OrderController::class, 'store']);
    // It changes only the caller's own cookie, and has to say 401, not 419, when the session has ended.
    Route::post('/token', [SessionController::class, 'token'])->withoutMiddleware(VerifyCsrfToken::class);
});
